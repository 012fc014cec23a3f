package host

//go:wasmimport extism:host/env length
func length(offset uint64) uint64

//go:wasmimport extism:host/env load_u8
func loadU8(offset uint64) uint32

//go:wasmimport extism:host/env error_set
func errorSet(offset uint64)

//go:wasmimport extism:host/user pollen_request
func request(uri uint64, input uint64) uint64

// Request asks pln://seed/NAME/FUNCTION or pln://service/NAME; false when there is no reply.
func Request(uri string, input []byte) ([]byte, bool) {
	reply := request(block([]byte(uri)), block(input))
	if reply == 0 {
		return nil, false
	}
	bytes := make([]byte, length(reply))
	for i := range bytes {
		bytes[i] = byte(loadU8(reply + uint64(i)))
	}
	return bytes, true
}

// Fail ends the call with an error.
func Fail(text string) int32 {
	errorSet(block([]byte(text)))
	return 1
}

func block(bytes []byte) uint64 {
	offset := alloc(uint64(len(bytes)))
	for i, b := range bytes {
		storeU8(offset+uint64(i), uint32(b))
	}
	return offset
}
