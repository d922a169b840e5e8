//! Exact amounts of money: decimal in, whole hundredths or minor units out. Never a float.
