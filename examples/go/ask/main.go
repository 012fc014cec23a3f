// Asks a service of the mesh. The input is its name, a line end, and what is said to it.
package main

import (
	"bytes"

	"pollen.example/host"
)

//go:wasmexport ask
func ask() int32 {
	name, said, _ := bytes.Cut(host.Input(), []byte("\n"))
	reply, ok := host.Request("pln://service/"+string(name), said)
	if !ok {
		return host.Fail("the service did not answer")
	}
	host.Output(reply)
	return 0
}

func main() {}
