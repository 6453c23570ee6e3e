# Passes on what `cargo test` says and adds its results up in a last line.
{ print; fflush() }
/^skipped: / { skipped++ }
/^test result: / { passed += $4; failed += $6; ignored += $8 }
END {
    printf "in all: %d passed; %d failed; %d ignored; %d skipped\n", passed, failed, ignored, skipped
}
