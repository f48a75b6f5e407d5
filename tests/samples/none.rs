//! Empty: the crates of this package are fetched for the files in them.
