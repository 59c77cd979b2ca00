"""What every engine, and every client of the wire, must keep."""
