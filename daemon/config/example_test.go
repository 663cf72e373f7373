package config

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const examplePath = "../../config.example.yaml"

func TestExampleEqualsDefault(t *testing.T) {
	t.Parallel()
	got, err := Load(examplePath, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := Default(); !reflect.DeepEqual(*got, want) {
		t.Errorf("the example loads as\n%+v\nbut the defaults are\n%+v", *got, want)
	}
}

// documented is one key of the example file with what is written about it.
type documented struct{ path, comment string }

func TestExampleDocumentsEveryKey(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	var found []documented
	collect(doc.Content[0], "", &found)

	var paths []string
	for _, f := range found {
		paths = append(paths, f.path)
	}
	if want := Keys(); !slices.Equal(paths, want) {
		t.Errorf("the example has the keys\n%q\nbut the struct has, in this order,\n%q", paths, want)
	}
	for i, k := range keys() {
		if i >= len(found) {
			break
		}
		comment := found[i].comment
		if len(comment) < 40 {
			t.Errorf("%s: the comment %q explains nothing", k.path, comment)
		}
		if says := strings.Contains(comment, "(restart"); says == k.reload {
			t.Errorf("%s: the comment says restart: %v, the field is reloadable: %v", k.path, says, k.reload)
		}
	}
}

func collect(n *yaml.Node, prefix string, found *[]documented) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		path := prefix + name.Value
		if value.Kind == yaml.MappingNode {
			collect(value, path+".", found)
			continue
		}
		comment := strings.Join(strings.Fields(strings.ReplaceAll(name.HeadComment, "#", "")), " ")
		*found = append(*found, documented{path, comment})
	}
}
