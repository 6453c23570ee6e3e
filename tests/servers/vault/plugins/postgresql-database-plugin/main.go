// Vault's own PostgreSQL half of the engine `database`, served as an external plugin: the build tag `minimal` leaves it out.
// Vault knows a plugin by the name of its file, and the file is named after this folder.
package main

import (
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/database/dbplugin/v5"
)

func main() { dbplugin.ServeMultiplex(postgresql.New) }
