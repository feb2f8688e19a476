"""Targets drawn from the distribution that a network's outputs stand for."""

from hesscomp.curvature.tensorflow import tf
from hesscomp.parallel import random


class _RowNoise:
    """Random numbers for rows start:stop of all ranks' rows, each time further ones."""

    def __init__(self, seed: int, start: int, stop: int):
        self.seed, self.rows, self.used = seed, (start, stop), 0

    def uniform(self, size: int) -> tf.Tensor:
        return self._draw(random.uniform, size)

    def normal(self, size: int) -> tf.Tensor:
        return self._draw(random.standard_normal, size)

    def _draw(self, draw, size):
        columns = (self.used, self.used + size)
        self.used += size
        return tf.constant(draw(self.seed, random.TARGET_SAMPLES, self.rows, columns))


def sampled_targets(problem, x, loss, samples: int, seed: int) -> tf.Tensor:
    """Draw (rows, samples, ...) targets for this shard's rows from float64 outputs."""

    def of(chunk: slice) -> tf.Tensor:
        start = problem.data.start
        noise = _RowNoise(seed, start + chunk.start, start + chunk.stop)
        output = tf.constant(problem.output(x, problem.data.X[chunk]))
        drawn = tf.stack([loss.sample(output, noise) for _ in range(samples)], axis=1)
        return tf.cast(drawn, problem.dtype) if drawn.dtype.is_floating else drawn

    chunks = [c for part in problem.parts_here for c in problem.chunks(part, "float64", samples)]
    return tf.concat([of(chunk) for chunk in chunks or [slice(0, 0)]], 0)
