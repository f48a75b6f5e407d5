//! The itwin-syncd program.

fn main() {}
