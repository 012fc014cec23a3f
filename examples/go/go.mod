module pollen.example

go 1.24
