//! Tests of what a request for a file gets.
