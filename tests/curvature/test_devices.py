"""Which rank computes on which device: GPUs, and TensorFlow's logical processors in their place."""

import json
import sys
from types import SimpleNamespace

import pytest

from hesscomp.curvature import tensorflow
from hesscomp.errors import InputError

RANK_ON_ITS_DEVICE = """
import json, os, sys
import numpy as np
from hesscomp.curvature.tensorflow import keras, own_device, tf, use_own_gpu
from hesscomp.curvature.hessian import HessianOperator
from hesscomp.parallel.world import World
from hesscomp.problems.keras import KerasProblem

world = World()
(processor,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(processor, two)
gpu = use_own_gpu(world.place_here())
own = own_device(tf.config.list_logical_devices("CPU"), world.place_here())
rng = np.random.default_rng(world.rank)
with tf.device(own.name):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    data = rng.standard_normal((4, 3)), rng.integers(0, 2, 4)
    problem = KerasProblem(model, "softmax-cross-entropy", data, world, dtype="float64")
    hessian = HessianOperator(problem, problem.initial)
    device = hessian._shard.product(tf.ones([problem.n, 1], tf.float64)).device
    norm = float(np.linalg.norm(hessian @ np.ones((problem.n, 1))))
found = world.gather((device.rpartition("/device:")[2], gpu is None, norm))
if world.rank == 0:
    print(json.dumps(found))
"""


def test_ranks_compute_on_their_own_devices(run_command, mpiexec, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANK_ON_ITS_DEVICE)
    done = run_command([mpiexec, "-n", 3, sys.executable, script], env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [device for device, *_ in found] == ["CPU:0", "CPU:1", "CPU:0"]
    assert all(no_gpu for _, no_gpu, _ in found)
    assert len({norm for *_, norm in found}) == 1


def test_a_rank_sees_its_own_gpu(monkeypatch):
    gpus = [SimpleNamespace(name=f"/physical_device:GPU:{i}") for i in range(2)]
    calls = []
    config = SimpleNamespace(
        list_physical_devices=lambda kind: gpus if kind == "GPU" else [],
        set_visible_devices=lambda device, kind: calls.append(("visible", device, kind)),
        experimental=SimpleNamespace(
            set_memory_growth=lambda device, growth: calls.append(("growth", device, growth))
        ),
    )
    monkeypatch.setattr(tensorflow, "tf", SimpleNamespace(config=config))
    for place in range(4):
        own = gpus[place % 2]
        assert tensorflow.use_own_gpu(place) == own.name
        assert calls == [("visible", own, "GPU"), ("growth", own, True)]
        calls.clear()

    def too_late(device, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    config.set_visible_devices = too_late
    with pytest.raises(InputError, match=r"already running; choose a GPU \(/physical_device:GPU:1"):
        tensorflow.use_own_gpu(1)
    gpus.clear()
    assert tensorflow.use_own_gpu(0) is None


@pytest.mark.parametrize(
    ("text", "own", "expected"), [("3", 0, [3]), ("3", 2, []), ("", 0, []), ("all", 0, [])]
)
def test_tensorflow_takes_the_threads_of_the_environment(text, own, expected, monkeypatch):
    found, threading = [], SimpleNamespace(get_intra_op_parallelism_threads=lambda: own)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    monkeypatch.setattr(tensorflow.tf.config, "threading", threading)
    monkeypatch.setattr(tensorflow, "_limit_threads", found.append)
    tensorflow._heed_environment()
    assert found == expected
