//! itwin-syncd: from a shared folder into an iModel.
