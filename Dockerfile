# For a machine with NVIDIA GPUs: docker build -t grpo-credit . && docker run --gpus all -it grpo-credit
FROM python:3.12-slim
# vLLM compiles kernels when it starts.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /grpo-credit
COPY . .
RUN pip install --no-cache-dir --constraint constraints-vllm.txt '.[vllm,math]'
CMD ["bash"]
