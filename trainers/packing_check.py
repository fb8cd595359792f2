"""Whether a model keeps packed examples apart, found out by trying."""

from __future__ import annotations

from typing import Any

import torch

from harness.errors import MoemixError

_LENGTH = 8  # tokens in each of two trial examples
_TOLERANCE = 1e-2  # of the hidden states' size; an example that sees its neighbour moves by far more


@torch.no_grad()
def check_packing(model: Any) -> None:
    """Run two short examples in one row and each alone, and compare the decoder's hidden states.

    Packing rests on attention masks that transformers makes from restarted positions. Layers that carry something
    else along a row (recurrent states, convolutions, masks of their own making) may not restart.

    Raises:
        MoemixError: the second example is not what it is alone.
    """
    tokens_2T = torch.arange(2 * _LENGTH, device=model.device).view(2, _LENGTH) % model.config.vocab_size
    positions_2T = torch.arange(_LENGTH, device=model.device).expand(2, _LENGTH)
    was_training = model.training
    model.eval()
    packed = model.base_model(
        input_ids=tokens_2T.reshape(1, -1), position_ids=positions_2T.reshape(1, -1), use_cache=False
    ).last_hidden_state.view(2, _LENGTH, -1)
    alone = model.base_model(input_ids=tokens_2T, position_ids=positions_2T, use_cache=False).last_hidden_state
    model.train(was_training)
    apart_T = (packed[1] - alone[1]).norm(dim=-1) / alone[1].norm(dim=-1)
    if not apart_T.median() < _TOLERANCE:
        raise MoemixError(
            f"{type(model).__name__} lets packed examples see each other (attention: "
            f"{model.config._attn_implementation}), so packing would change what is learnt",
            where="training.pack",
            hint="set training.pack=false",
        )
