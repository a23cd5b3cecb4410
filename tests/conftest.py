import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func, which fixes the completions
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # parity is stated in float32 on the CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # which xdist sets; a test of a width names it

from hypothesis import HealthCheck, settings

from grpo_credit.experiments.study.process import ignore_alone

ignore_alone()  # as a background job; the processes of tests are sent the signals it ignores

# a shared machine may pause for seconds: neither an example nor its making is timed
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
