"""What a run trains its model to do, as its specification says it and as its work is counted."""
