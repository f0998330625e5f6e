"""Arrays in, `Estimate` out: read-outs that know no simulator."""
