// Sliders choose a row of tables that the program has computed; the page computes nothing itself.
for (const choice of JSON.parse(document.getElementById("choices").textContent)) {
  const inputs = [...document.querySelectorAll(`input[data-choice="${choice.figure}"]`)];
  const row = over => over.reduce((at, i) => at * choice.axes[i].shown.length + Number(inputs[i].value), 0);
  const show = () => {
    inputs.forEach((input, i) => {
      input.parentElement.querySelector("b").textContent = choice.axes[i].shown[input.value];
    });
    for (const curve of choice.curves)
      Plotly.restyle(choice.figure, { x: [choice.x], y: [curve.rows[row(curve.over)]] }, [curve.trace]);
    for (const sentence of choice.sentences)
      document.getElementById(sentence.id).textContent = sentence.rows[row(sentence.over)];
  };
  inputs.forEach(input => input.addEventListener("input", show));
  show();
}
