//! The command line.

use std::{env, ffi::OsString, fmt, io, io::IsTerminal, num::ParseIntError, time::Duration};

use actix_quorum::{Quorum, QuorumActor, QuorumBuilder, sim::Cluster};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Shows, waits for and acts on the quorum of this Corosync node.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_long_help = AFTER)]
pub(crate) struct Options {
    /// Print JSON, one object per line.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Ask node 1 of a simulated cluster of three instead of Corosync.
    #[arg(long, global = true, hide = true)]
    simulate: bool,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the current state (the default).
    Status,
    /// Print the current state, then every change, one per line, until interrupted.
    Watch,
    /// Wait for quorum, then print the current state.
    Wait(Wait),
    /// Wait for quorum, run a command, and end the command when quorum is lost.
    Exec(Exec),
    /// Print shell completions.
    Completions {
        /// The shell that reads the completions.
        shell: Shell,
    },
    /// Print this manual page.
    Man,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Wait {
    /// Require that no other partition can have quorum.
    #[arg(long)]
    pub(crate) exclusive: bool,

    /// The maximum wait, in seconds. Without this option the wait has no limit.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) wait: Wait,

    /// The maximum time between TERM and the end of the command, in seconds. KILL follows.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) grace: Duration,

    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Accepts whole seconds only.
fn seconds(text: &str) -> Result<Duration, ParseIntError> {
    text.parse().map(Duration::from_secs)
}

const AFTER: &str = "\
Exit codes of status, watch and wait, as corosync-quorumtool -s has them:
  0    this node has quorum; after wait --exclusive, no other partition can have quorum
  1    the state is unknown; after wait --exclusive, the quorum is not exclusive; or an error
  2    this node has no quorum

Exit codes of exec:
  N    the exit code of the command, also after a signal to quorum-watch
  124  there was no quorum before the timeout, or exec ended the command because quorum was lost
  125  quorum-watch itself failed
  126  the command cannot be run
  127  the command does not exist
  128+N  signal N ended the command, or ended quorum-watch before the command ran

Every command exits with 64 if its arguments are wrong.

When quorum is lost, exec sends TERM to the command, and KILL after the grace. When quorum-watch receives INT,
TERM or HUP, exec sends the same signal to the command, and KILL after the grace. Processes that the command has
started receive no signal. If quorum-watch itself is killed or stopped, it cannot end the command; in a systemd
unit the default KillMode ends both. The command is not started before this node has quorum, and it can run until
the grace has passed after a loss.";

impl Options {
    pub(crate) fn builder(&self) -> QuorumBuilder {
        let builder = QuorumActor::builder();
        if self.simulate { builder.source(Cluster::new(3).node(1)) } else { builder }
    }

    /// Returns the text, in the colour of the state if it is printed to a terminal.
    pub(crate) fn paint(&self, quorum: Quorum, text: impl fmt::Display) -> String {
        let colour = match quorum {
            Quorum::Quorate => 32,
            Quorum::Inquorate => 31,
            Quorum::Unknown => 33,
        };
        // An empty value has no effect (no-color.org).
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = io::stdout().is_terminal() && !plain;
        if colours { format!("\x1b[{colour}m{text}\x1b[m") } else { text.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_valid() {
        Options::command().debug_assert();
    }
}
