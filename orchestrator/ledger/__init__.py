"""The ledger: the Parquet tables and files of a run, on a local disk or in an object store."""
