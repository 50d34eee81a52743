"""From coded video to pictures. decode.py says which decoder serves which slice."""
