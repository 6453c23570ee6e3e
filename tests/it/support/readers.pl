# Owns readers of a mount in a booted machine: `readers.pl MOUNT REPORT [SECRETS]`, until SIGTERM. Every byte is compared.
# Does not know what is done to the mount meanwhile. Perl, for that is what a minimal Debian has.
use strict;
use warnings;
use Errno qw(ESTALE);
use Fcntl qw(O_RDONLY);

# Seconds, to a hundredth: what a minimal Debian has no module for.
sub now {
    open(my $file, '<', '/proc/uptime') or die "uptime: $!";
    return (split ' ', <$file>)[0];
}

sub pause { select(undef, undef, undef, $_[0]) }

my ($mount, $report, $secrets) = (@ARGV, 8);
my $over = 0;
$SIG{TERM} = sub { $over = 1 };
my %seen = (reads => 0, failures => 0, wrong => 0, same => 0, stale => 0, longest => 0);
my %errors;

sub failed {
    # Who is told to end in the middle of a wait is told so by an error.
    return if $over;
    $seen{failures}++;
    $errors{join('_', $_[0], split(' ', "$!")) . '@' . now()}++;
    pause(0.05);
}

# The file of a secret, and what is in it.
sub of { return ("$mount/drill-$_[0]/value", "canary-drill-$_[0]") }

sub whole {
    my ($file) = @_;
    sysread($file, my $bytes, 4096) // return undef;
    return $bytes;
}

sub open_read_close {
    my ($path, $expected) = of($_[0]);
    my $began = now();
    my $file;
    my $opened = sysopen($file, $path, O_RDONLY);
    my $bytes = $opened ? whole($file) : undef;
    my $error = $!;
    close $file if defined $file;
    my $took = now() - $began;
    $seen{longest} = $took if $took > $seen{longest} && !$over;
    $! = $error;
    return failed($opened ? 'read' : 'open') unless defined $bytes;
    $seen{reads}++;
    $seen{wrong}++ if $bytes ne $expected;
}

# One that is held open says the same for ever, or that it cannot.
sub hold {
    my ($path, $expected) = of(0);
    until ($over) {
        sysopen(my $file, $path, O_RDONLY) or (failed('open-held'), next);
        until ($over) {
            sysseek($file, 0, 0);
            my $bytes = whole($file);
            if (defined $bytes) { $bytes eq $expected ? $seen{same}++ : $seen{wrong}++ }
            elsif ($! == ESTALE) { $seen{stale}++; last }
            else { failed('read-held'); last }
            pause(0.003);
        }
        close $file;
    }
}

sub read_all {
    my $next = shift;
    until ($over) {
        open_read_close($next++ % $secrets);
        pause(0.003);
    }
}

my @readers = ((map { my $n = $_; sub { read_all($n) } } 0 .. 2), \&hold);
my @running;
for my $number (0 .. $#readers) {
    my $process = fork // die "fork: $!";
    push(@running, $process), next if $process;
    $readers[$number]->();
    open(my $out, '>', "$report.$number") or die "$report: $!";
    print $out map { "$_ $seen{$_}\n" } keys %seen;
    print $out map { "error $_ $errors{$_}\n" } keys %errors;
    close $out;
    exit 0;
}
while (@running) {
    my $ended = waitpid($running[0], 0);
    shift @running if $ended == $running[0];
}
