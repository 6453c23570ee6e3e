# Passes on what `cargo test` says, adds its results up and says again what failed and why: of a long log people see the end.
{ print; fflush() }
/^skipped: / { skipped++ }
/^test result: / { passed += $4; failed += $6; ignored += $8 }
# What a test printed is shown once all have ended, under its name: its first panic, and some lines of what was said there.
/^---- .* stdout ----$/ { name = $2; lines = 0; next }
/panicked at / && name != "" { lines = 4; why = why "\n" name ": " $0; next }
/^note: run with |^stack backtrace:/ { lines = 0 }
lines > 0 && NF { why = why "\n    " substr($0, 1, 400); lines-- }
END {
    if (why != "") printf "why:%s\n", why
    printf "in all: %d passed; %d failed; %d ignored; %d skipped\n", passed, failed, ignored, skipped
}
