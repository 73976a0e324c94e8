"""Samples: their schema, their splits and the Parquet files that hold them."""
