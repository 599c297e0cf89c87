//! The command `quorum-watch man`.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::options::Options;

/// Writes one page about the program and all of its commands.
pub(crate) fn write(page: &mut Vec<u8>) -> io::Result<()> {
    let mut program = Options::command();
    // Gives each command its full name, `quorum-watch status`.
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

/// Writes the usage, the description and the options of one command.
fn subsection(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    let full_name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    writeln!(page, ".SS \"{}\"", full_name.replace('-', "\\-"))?;
    // The page describes these options once, at its beginning.
    let man = Man::new(command.clone().mut_args(|argument| {
        let is_common = ["help", "json"].contains(&argument.get_id().as_str());
        argument.hide(is_common)
    }));
    let mut body = Vec::new();
    man.render_synopsis_section(&mut body)?;
    writeln!(body, ".PP")?;
    man.render_description_section(&mut body)?;
    man.render_options_section(&mut body)?;
    // The headings of the command's sections are left out, because this is one subsection.
    let parts = body.split_inclusive(|byte| *byte == b'\n');
    page.extend(parts.filter(|line| !line.starts_with(b".SH ")).flatten());
    Ok(())
}
