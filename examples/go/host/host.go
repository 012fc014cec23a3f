// Package host is the part of the Extism ABI that the examples need. A real program takes
// github.com/extism/go-pdk instead; the examples do without it so that they build offline.
package host

//go:wasmimport extism:host/env input_length
func inputLength() uint64

//go:wasmimport extism:host/env input_load_u8
func inputLoadU8(offset uint64) uint32

//go:wasmimport extism:host/env alloc
func alloc(length uint64) uint64

//go:wasmimport extism:host/env store_u8
func storeU8(offset uint64, value uint32)

//go:wasmimport extism:host/env output_set
func outputSet(offset uint64, length uint64)

// Input returns the call's input.
func Input() []byte {
	bytes := make([]byte, inputLength())
	for i := range bytes {
		bytes[i] = byte(inputLoadU8(uint64(i)))
	}
	return bytes
}

// Output sets the call's output.
func Output(bytes []byte) {
	outputSet(block(bytes), uint64(len(bytes)))
}
