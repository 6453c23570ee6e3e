// The real HashiCorp Vault server and command line, built from its Go module.
// For tests only: nothing of it is shipped (its licence, BUSL, allows that use).
package main

import (
	"os"

	"github.com/hashicorp/vault/command"
)

func main() { os.Exit(command.Run(os.Args[1:])) }
