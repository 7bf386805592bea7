import gc

import pytest
import torch
from torch.nn import functional as F

from composer.model.runtime.llama import onednn_linear as packed
from composer.model.runtime.llama.onednn_linear import pack, packed_linear

WEIGHT = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
needs_packing = pytest.mark.skipif(not pack(WEIGHT), reason="oneDNN packs nothing on this processor")


@needs_packing
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 31, 64, 65, 80, 200])
def test_it_is_the_plain_product_for_any_number_of_rows(rows):
    x = torch.randn(rows, 32)
    torch.testing.assert_close(packed_linear(x, WEIGHT), F.linear(x, WEIGHT), atol=1e-5, rtol=1e-5)


@needs_packing
def test_a_slice_of_a_wider_tensor_is_read_as_it_stands():
    wide = torch.randn(5, 100)
    expected = F.linear(wide[:, 10:42].contiguous(), WEIGHT)
    torch.testing.assert_close(packed_linear(wide[:, 10:42], WEIGHT), expected, atol=1e-5, rtol=1e-5)


@needs_packing
def test_the_copy_goes_with_its_weight():
    weight = torch.randn(48, 32)
    gc.collect()  # of what other tests left
    before = len(packed._copies)
    assert pack(weight) and pack(weight)
    assert len(packed._copies) == before + 1
    del weight
    gc.collect()
    assert len(packed._copies) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8])
def test_other_types_of_weights_stay_as_they_are(dtype):
    assert not pack(torch.ones(8, 8).to(dtype))


def test_other_processors_keep_their_own_blas(monkeypatch):
    monkeypatch.setattr(packed.platform, "machine", lambda: "arm64")
    assert not pack(torch.ones(8, 8))
