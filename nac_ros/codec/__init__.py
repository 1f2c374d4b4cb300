"""The Neural Action Codec in torch alone: SEANet encoder, multi-scale RVQ, Vocos decoder."""
