"""MediaPipe's hand landmark network in torch, and its readings of eight views of a hand; may import handdata."""
