"""Tests, laid out as the source is; slow kinds sit in contract/, fault/ and e2e/ and carry a marker."""
