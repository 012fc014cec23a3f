// Returns its input.
package main

import "pollen.example/host"

//go:wasmexport echo
func echo() int32 {
	host.Output(host.Input())
	return 0
}

func main() {}
