// SPDX-License-Identifier: MIT OR Apache-2.0
//! `squall secret`: makes what the members of a group on several hosts prove themselves with.

use crate::failure::Failure;
use crate::text::remark;
use clap::Args;
use squall::fabric::tcp::secret::Secret;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  squall secret /etc/squall/demo.secret          256 random bits that only this user may read
  squall secret --check /etc/squall/demo.secret  whether a member of this user would take that file

Copy the file to every host of the group, for the members' user and with mode 0600 (`scp -p` keeps
it), and name it in each member's configuration. Whoever holds it can do what a member can.";

/// Make the secret of a group, or check one.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// The file; one that is there already is not replaced
    file: PathBuf,
    /// Make nothing: say whether the file can be used
    #[arg(long)]
    check: bool,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let file = &options.file;
    if !options.check {
        Secret::create(file)?;
    }
    Secret::from_file(file)?;
    let what = if options.check { "can be used" } else { "made, for this user only" };
    remark(&format!("{}: {what}", file.display()));
    Ok(())
}
