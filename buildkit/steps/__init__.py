"""One module for each step: plain values in, a frozen model out. No step imports another."""
