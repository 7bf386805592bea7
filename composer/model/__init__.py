"""The only room that touches an nn.Module: base, gate, lens, decoding."""
