"""Inception v3 against the layers of Szegedy et al. 2016 and pytorch-fid's pools, in PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsearch.models.inception import Inception, InceptionConfig, build, from_pytorch_fid
from jaxsearch.models.loading import abstract_module, functional
from jaxsearch.models.pickles import read_state_dict
from jaxsearch.models.state_dict import load_state_dict

NARROW = InceptionConfig(num_classes=13, narrower=16)


class Reference:
    """Makes weights as it meets them, under the file's keys, and computes with them (float32)."""

    def __init__(self, narrower: int, num_classes: int) -> None:
        import torch

        self.torch, self.f = torch, torch.nn.functional
        self.generator = torch.Generator().manual_seed(0)
        self.narrower, self.num_classes = narrower, num_classes
        self.weights: dict = {}

    def _random(self, *shape, size=1.0, shift=0.0):
        return shift + size * self.torch.randn(*shape, generator=self.generator)

    def unit(self, x, name, outer, kernel=(1, 1), stride=1, padding=(0, 0)):
        outer, inner = outer // self.narrower, x.shape[1]
        t = self.weights
        if f"{name}.conv.weight" not in t:
            size = (2 / (inner * kernel[0] * kernel[1])) ** 0.5
            t[f"{name}.conv.weight"] = self._random(outer, inner, *kernel, size=size)
            t[f"{name}.bn.weight"] = self._random(outer, size=0.1, shift=1.0)
            t[f"{name}.bn.bias"] = self._random(outer, size=0.3)
            t[f"{name}.bn.running_mean"] = self._random(outer, size=0.3)
            variance = self.torch.rand(outer, generator=self.generator)
            t[f"{name}.bn.running_var"] = 0.01 + variance
            t[f"{name}.bn.num_batches_tracked"] = self.torch.tensor(7)
        x = self.f.conv2d(x, t[f"{name}.conv.weight"], None, stride, padding)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (t[f"{name}.bn.{one}"] for one in names)
        return self.f.relu(self.f.batch_norm(x, mean, variance, weight, bias, False, 0.0, 0.001))

    def mean(self, x):
        return self.f.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def a(self, x, name, pool):
        u = lambda h, key, *args: self.unit(h, f"{name}.{key}", *args)  # noqa: E731
        five = u(u(x, "branch5x5_1", 48), "branch5x5_2", 64, (5, 5), 1, (2, 2))
        three = u(u(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, (3, 3), 1, (1, 1))
        three = u(three, "branch3x3dbl_3", 96, (3, 3), 1, (1, 1))
        last = u(self.mean(x), "branch_pool", pool)
        return self.torch.cat([u(x, "branch1x1", 64), five, three, last], 1)

    def b(self, x, name):
        u = lambda h, key, *args: self.unit(h, f"{name}.{key}", *args)  # noqa: E731
        double = u(u(x, "branch3x3dbl_1", 64), "branch3x3dbl_2", 96, (3, 3), 1, (1, 1))
        double = u(double, "branch3x3dbl_3", 96, (3, 3), 2)
        one = u(x, "branch3x3", 384, (3, 3), 2)
        return self.torch.cat([one, double, self.f.max_pool2d(x, 3, 2)], 1)

    def c(self, x, name, inner):
        u = lambda h, key, *args: self.unit(h, f"{name}.{key}", *args)  # noqa: E731
        wide, tall = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        one = u(u(x, "branch7x7_1", inner), "branch7x7_2", inner, *wide)
        one = u(one, "branch7x7_3", 192, *tall)
        double = u(x, "branch7x7dbl_1", inner)
        double = u(double, "branch7x7dbl_2", inner, *tall)
        double = u(double, "branch7x7dbl_3", inner, *wide)
        double = u(double, "branch7x7dbl_4", inner, *tall)
        double = u(double, "branch7x7dbl_5", 192, *wide)
        last = u(self.mean(x), "branch_pool", 192)
        return self.torch.cat([u(x, "branch1x1", 192), one, double, last], 1)

    def d(self, x, name):
        u = lambda h, key, *args: self.unit(h, f"{name}.{key}", *args)  # noqa: E731
        three = u(u(x, "branch3x3_1", 192), "branch3x3_2", 320, (3, 3), 2)
        seven = u(u(x, "branch7x7x3_1", 192), "branch7x7x3_2", 192, (1, 7), 1, (0, 3))
        seven = u(seven, "branch7x7x3_3", 192, (7, 1), 1, (3, 0))
        seven = u(seven, "branch7x7x3_4", 192, (3, 3), 2)
        return self.torch.cat([three, seven, self.f.max_pool2d(x, 3, 2)], 1)

    def e(self, x, name, pool):
        u = lambda h, key, *args: self.unit(h, f"{name}.{key}", *args)  # noqa: E731
        wide, tall = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
        one = u(x, "branch3x3_1", 384)
        one = [u(one, "branch3x3_2a", 384, *wide), u(one, "branch3x3_2b", 384, *tall)]
        double = u(u(x, "branch3x3dbl_1", 448), "branch3x3dbl_2", 384, (3, 3), 1, (1, 1))
        double = [
            u(double, "branch3x3dbl_3a", 384, *wide),
            u(double, "branch3x3dbl_3b", 384, *tall),
        ]
        last = u(pool(x), "branch_pool", 192)
        return self.torch.cat([u(x, "branch1x1", 320), *one, *double, last], 1)

    def __call__(self, x):
        """[n,h,w,3] NumPy -> features and logits, NumPy."""
        with self.torch.no_grad():
            h = self.torch.from_numpy(x).permute(0, 3, 1, 2)
            h = self.unit(h, "Conv2d_1a_3x3", 32, (3, 3), 2)
            h = self.unit(h, "Conv2d_2a_3x3", 32, (3, 3))
            h = self.f.max_pool2d(self.unit(h, "Conv2d_2b_3x3", 64, (3, 3), 1, (1, 1)), 3, 2)
            h = self.unit(self.unit(h, "Conv2d_3b_1x1", 80), "Conv2d_4a_3x3", 192, (3, 3))
            h = self.f.max_pool2d(h, 3, 2)
            for letter, pool in zip("bcd", (32, 64, 64), strict=True):
                h = self.a(h, f"Mixed_5{letter}", pool)
            h = self.b(h, "Mixed_6a")
            for letter, inner in zip("bcde", (128, 160, 160, 192), strict=True):
                h = self.c(h, f"Mixed_6{letter}", inner // self.narrower * self.narrower)
                if letter == "d":  # whose first channels are the unit branch's
                    self.spatial = h[:, :7].numpy()
            h = self.d(h, "Mixed_7a")
            h = self.e(h, "Mixed_7b", self.mean)
            h = self.e(h, "Mixed_7c", lambda x: self.f.max_pool2d(x, 3, 1, 1))
            features = h.mean(dim=(2, 3))
            if "fc.weight" not in self.weights:
                shape = (self.num_classes, features.shape[1])
                size = 4 / float(features.norm(dim=1).mean())  # logits of about 4
                self.weights["fc.weight"] = self._random(*shape, size=size)
                self.weights["fc.bias"] = self._random(self.num_classes)
            logits = self.f.linear(features, self.weights["fc.weight"], self.weights["fc.bias"])
            return features.numpy(), logits.numpy()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """The published file's form, images, and what the reference says of them."""
    torch = pytest.importorskip("torch")
    reference = Reference(NARROW.narrower, NARROW.num_classes)
    x = np.random.default_rng(0).normal(size=(2, 127, 111, 3)).astype(np.float32)
    features, logits = reference(x)
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(reference.weights, path)
    return path, x, features, logits, reference.spatial


def loaded(path, dtype=jnp.float32):
    abstract = abstract_module(build(NARROW, dtype))
    return load_state_dict(abstract, from_pytorch_fid(read_state_dict(path)), source=path)


def error(found, wanted):
    return np.max(np.abs(np.asarray(found) - wanted)) / np.std(wanted)


def test_it_computes_what_the_layers_say(case):
    """Kills: a pool that counts its padding; a mean in the last block; an epsilon; two branches
    changed for each other; a bias that is left out, or is not; channels before pixels."""
    path, x, features, logits, spatial = case
    params = loaded(path)

    def outputs(params, x):
        methods = ("features", "__call__", "without_bias", "outputs")
        return [jax.jit(functional(build(NARROW), method))(params, x) for method in methods]

    found = jax.jit(outputs)(params, jnp.asarray(x))
    assert error(found[0], features) < 2e-5
    assert error(found[1], logits) < 2e-5
    bias = np.asarray(params["fc"]["bias"])
    assert error(found[2], logits - bias) < 2e-5
    assert error(found[3].features, features) < 2e-5
    assert error(found[3].logits, logits - bias) < 2e-5
    # Pixel by pixel, as TensorFlow has them.
    assert error(found[3].spatial, spatial.transpose(0, 2, 3, 1).reshape(len(x), -1)) < 2e-5


def test_half_precision_stays_near(case):
    path, x, _, logits, _ = case
    found = jax.jit(functional(build(NARROW, jnp.bfloat16)))(
        loaded(path, jnp.bfloat16), jnp.asarray(x)
    )
    assert found.dtype == jnp.float32
    assert 1e-4 < error(found, logits) < 0.3


def test_the_published_size():
    abstract = abstract_module(lambda rngs: Inception(InceptionConfig(), rngs=rngs))
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(abstract)))
    number = sum(leaf.size for path, leaf in leaves if "running_" not in str(path))
    assert number == 23_850_960
    assert abstract.fc.kernel.shape == (2048, 1008)


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="narrower is 3: it must divide 16"):
        InceptionConfig(narrower=3)
