// Returns its input in upper case.
package main

import (
	"bytes"

	"pollen.example/host"
)

//go:wasmexport shout
func shout() int32 {
	host.Output(bytes.ToUpper(host.Input()))
	return 0
}

//go:wasmexport upper
func upper() int32 { return shout() }

func main() {}
