from __future__ import annotations

import pytest
import torch

from ciyuan import nn


def copy_layer(theirs: torch.nn.Module, block: torch.nn.Module, *, cross: bool) -> None:
    """Our block's parameters, written over those of torch's own post-norm layer."""

    def attention(ours: torch.nn.Module, module: torch.nn.Module) -> None:
        module.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        module.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        module.out_proj.load_state_dict(ours.out.state_dict())

    with torch.no_grad():
        attention(block.attention.sublayer, theirs.self_attn)
        norms = [block.attention.norm_sum]
        if cross:
            attention(block.cross.sublayer, theirs.multihead_attn)
            norms.append(block.cross.norm_sum)
        norms.append(block.feed_forward.norm_sum)
        for number, norm in enumerate(norms, start=1):
            getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())
        theirs.linear1.load_state_dict(block.feed_forward.sublayer.up.state_dict())
        theirs.linear2.load_state_dict(block.feed_forward.sublayer.down.state_dict())


def test_an_encoder_layer_is_torchs_encoder_layer():
    ours = nn.EncoderLayer(dim_model=16, num_heads=4, dim_ff=32).double().eval()
    theirs = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dtype=torch.float64).eval()
    copy_layer(theirs, ours.block, cross=False)
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    keep = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    expected = theirs(x, src_key_padding_mask=~keep)
    torch.testing.assert_close(ours(x, src_mask=keep[:, None, :])[keep], expected[keep])


def test_a_decoder_layer_is_torchs_decoder_layer():
    ours = nn.DecoderLayer(dim_model=16, num_heads=4, dim_ff=32).double().eval()
    theirs = torch.nn.TransformerDecoderLayer(16, 4, 32, batch_first=True, dtype=torch.float64).eval()
    copy_layer(theirs, ours.block, cross=True)
    x, memory = torch.randn(3, 5, 16, dtype=torch.float64), torch.randn(3, 7, 16, dtype=torch.float64)
    future = torch.ones(5, 5).triu(1).bool()
    torch.testing.assert_close(ours(x, memory), theirs(x, memory, tgt_mask=future))


def test_the_stacks_and_the_whole_run_forwards_and_backwards():
    encoder = nn.TransformerEncoder(dim_model=16, num_heads=2, dim_ff=32, num_layers=2)
    decoder = nn.TransformerDecoder(dim_model=16, num_heads=2, dim_ff=32, num_layers=2)
    x, y = torch.randn(2, 6, 16), torch.randn(2, 4, 16)
    decoder(y, encoder(x)).sum().backward()
    assert all(p.grad is not None for p in [*encoder.parameters(), *decoder.parameters()])
    attended = nn.MultiHeadAttention(dim_model=16, num_heads=2)
    assert attended(x).shape == x.shape
    assert attended(y, x).shape == y.shape


def test_the_whole_transformer_hides_padding():
    whole = nn.Transformer(16, 2, 32, 2, vocab_size=50).eval()
    source, target = torch.randint(1, 50, (1, 6)), torch.randint(1, 50, (1, 4))
    padded = torch.nn.functional.pad(source, (0, 3))
    mask = torch.tensor([[1] * 6 + [0] * 3])
    torch.testing.assert_close(whole(padded, target, mask), whole(source, target))


def test_a_mask_that_is_not_bool_is_refused():
    with pytest.raises(ValueError, match="bool"):
        nn.EncoderLayer(16, 2, 32)(torch.zeros(1, 3, 16), torch.zeros(3, 3))
