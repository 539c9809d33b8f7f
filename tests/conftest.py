"""What has to be set before a framework is imported: JAX with two devices, for shard_map; TensorFlow without its log."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
