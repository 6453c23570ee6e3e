// Vault's own engine `totp`, served as an external plugin: the build tag `minimal` leaves it out.
// Vault knows a plugin by the name of its file, and the file is named after this folder.
package main

import (
	"log"

	"github.com/hashicorp/vault/builtin/logical/totp"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: totp.Factory}); err != nil {
		log.Fatal(err)
	}
}
