"""Pictures that were learned by heart are told from new ones."""

from __future__ import annotations

import pytest
import torch

from multimodal.studio.evaluation.copies import copied_share


def test_what_is_drawn_is_a_copy_where_it_is_much_closer_than_held_out_pictures_are() -> None:
    random = torch.Generator().manual_seed(0)
    learned, held_out, new = (torch.randn(40, 192, generator=random) for _ in range(3))
    copies = learned[:10] + 0.1 * torch.randn(10, 192, generator=random)
    assert copied_share(new, learned, held_out) == 0
    assert copied_share(copies, learned, held_out) == 1
    assert copied_share(torch.cat([new[:30], copies]), learned, held_out) == pytest.approx(0.25)
