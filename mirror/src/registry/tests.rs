//! The front end with real parts.
