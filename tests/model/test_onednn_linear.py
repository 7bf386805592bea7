import gc

import pytest
import torch
from torch.nn import functional as F

from composer.model.runtime.llama import onednn_linear as packed
from composer.model.runtime.llama.onednn_linear import pack, packed_linear

WEIGHT = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
PACKED = pack(WEIGHT)
needs_packing = pytest.mark.skipif(PACKED is None, reason="oneDNN packs nothing on this processor")


@needs_packing
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 31, 64, 65, 80, 200])
def test_it_is_the_plain_product_for_any_number_of_rows(rows):
    x = torch.randn(rows, 32)
    torch.testing.assert_close(packed_linear(x, PACKED), F.linear(x, WEIGHT), atol=1e-5, rtol=1e-5)


@needs_packing
def test_a_slice_of_a_wider_tensor_is_read_as_it_stands():
    wide = torch.randn(5, 100)
    expected = F.linear(wide[:, 10:42].contiguous(), WEIGHT)
    torch.testing.assert_close(packed_linear(wide[:, 10:42], PACKED), expected, atol=1e-5, rtol=1e-5)


@needs_packing
def test_the_copy_goes_with_its_handle_and_not_with_its_weight():
    weight = torch.randn(48, 32)
    gc.collect()  # of what other tests left
    before = len(packed._copies)
    handle, x = pack(weight), torch.randn(5, 32)
    expected = F.linear(x, weight)
    del weight
    gc.collect()
    assert len(packed._copies) == before + 1
    torch.testing.assert_close(packed_linear(x, handle), expected, atol=1e-5, rtol=1e-5)
    del handle
    gc.collect()
    assert len(packed._copies) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8])
def test_other_types_of_weights_stay_as_they_are(dtype):
    assert pack(torch.ones(8, 8).to(dtype)) is None


def test_other_processors_keep_their_own_blas(monkeypatch):
    monkeypatch.setattr(packed.platform, "machine", lambda: "arm64")
    assert pack(torch.ones(8, 8)) is None
