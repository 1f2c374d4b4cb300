"""The neural action codec in torch alone: SEANet encoder, multi-scale RVQ, Vocos decoder."""
