"""What runs the tasks of a conversion: processes of this machine, or a Ray cluster."""
