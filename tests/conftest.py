import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func, which fixes the completions
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # parity is stated in float32 on the CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")

from grpo_credit.study.process import ignore_alone

ignore_alone()  # as a background job; the processes of tests are sent the signals it ignores
