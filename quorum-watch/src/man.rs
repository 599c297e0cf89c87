//! `quorum-watch man`

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::options::Options;

/// Writes one page about the program and all of its commands.
pub(crate) fn write(page: &mut Vec<u8>) -> io::Result<()> {
    let mut program = Options::command();
    // So that each command knows how it is called.
    program.build();
    let man = Man::new(program.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_options_section(page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        subsection(page, command)?;
    }
    man.render_extra_section(page)
}

/// How a command is called, what it does, and its options.
fn subsection(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    let called = command.get_bin_name().unwrap_or_else(|| command.get_name());
    writeln!(page, ".SS \"{}\"", called.replace('-', "\\-"))?;
    // The page has these once, at its beginning.
    let man = Man::new(command.clone().mut_args(|argument| {
        let is_known = ["help", "json"].contains(&argument.get_id().as_str());
        argument.hide(is_known)
    }));
    let mut body = Vec::new();
    man.render_synopsis_section(&mut body)?;
    writeln!(body, ".PP")?;
    man.render_description_section(&mut body)?;
    man.render_options_section(&mut body)?;
    // Its sections are parts of this one.
    let parts = body.split_inclusive(|byte| *byte == b'\n');
    page.extend(parts.filter(|line| !line.starts_with(b".SH ")).flatten());
    Ok(())
}
