// SPDX-License-Identifier: MIT OR Apache-2.0
//! One planted fault per rule and barrier: the explorer must find each.
