"""What a run trains its model to do: how a block becomes batches and a loss."""
