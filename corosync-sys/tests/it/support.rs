//! A C compiler, and directories for its output.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

/// A directory that is removed at the end of the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Creates a directory. No other test may use this name.
    pub(crate) fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", process::id()));
        fs::create_dir_all(&dir).expect("the directory can be created");
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Compiles C to an executable, runs it, and returns its output.
    pub(crate) fn run(&self, source: &str) -> String {
        let program = self.compile("program", source, &[]);
        let output = Command::new(program).output().expect("the program runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("the program prints text")
    }

    /// Compiles C to a shared library.
    pub(crate) fn library(&self, file: &str, source: &str) -> PathBuf {
        self.compile(file, source, &["-shared", "-fPIC"])
    }

    /// Checks that C compiles.
    pub(crate) fn check(&self, source: &str) {
        self.compile("checked", source, &["-c"]);
    }

    /// Preprocesses C, and keeps the definitions of macros.
    pub(crate) fn preprocess(&self, source: &str) -> String {
        let output = self.compile("preprocessed", source, &["-E", "-dD"]);
        fs::read_to_string(output).expect("the compiler has written the file")
    }

    fn compile(&self, file: &str, source: &str, args: &[&str]) -> PathBuf {
        let output = self.0.join(file);
        let input = self.0.join(format!("{file}.c"));
        fs::write(&input, source).expect("the directory is writable");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let result = Command::new(compiler)
            .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror"])
            .args(args)
            .arg("-o")
            .args([&output, &input])
            .output()
            .expect("a C compiler is installed");
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        output
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A failure leaves a few files in the target directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}
