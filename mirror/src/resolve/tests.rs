//! Look-ups
