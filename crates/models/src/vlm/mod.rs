//! vlm.
