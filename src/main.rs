//! Owns nothing but the way in and the way out: arguments to an exit code.
//! Does not know what any command does.

fn main() -> std::process::ExitCode {
    secretfs::cli::run()
}
