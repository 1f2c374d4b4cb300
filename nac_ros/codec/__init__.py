"""Networks and quantizers of codecs in torch alone.

The neural action codec: SEANet encoder, multi-scale RVQ, Vocos decoder. For `rotated_rvq`: linear
path and rotated residual quantizer.
"""
